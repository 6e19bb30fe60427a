// A GraphQL server for tests: GraphQL Yoga, with a shop of 57 items, costs and a budget.
//
// SETTINGS is JSON: {modules, budget}. The first line that is printed is JSON: {url}.
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const settings = JSON.parse(process.env.SETTINGS);
const resolve = createRequire(settings.modules + '/').resolve;
// Both have to use one copy of `graphql`, or they do not know each other's schemas.
const { createSchema, createYoga } = createRequire(settings.modules + '/')('graphql-yoga');
const { GraphQLError } = createRequire(resolve('graphql-yoga'))('graphql');

const items = Array.from({ length: 57 }, (_, index) => ({ id: String(index + 1), title: `Item ${index + 1}` }));
let budget = settings.budget;

const refuse = (message, code, extensions = {}) => new GraphQLError(message, { extensions: { code, ...extensions } });
const shop = createSchema({
  typeDefs: `
    type Item { id: ID! title: String! price: Float broken(why: String!): String }
    type PageInfo { hasNextPage: Boolean! endCursor: String }
    type ItemConnection { nodes: [Item!]! pageInfo: PageInfo! }
    input NewItem { title: String!, price: Float }
    type Query { item(id: ID!): Item items(first: Int = 10, after: String): ItemConnection! secret: String! }
    type Mutation { createItem(input: NewItem!): Item! }
  `,
  resolvers: {
    Query: {
      item: (_, { id }) => items.find((item) => item.id === id),
      items: (_, { first, after }) => {
        if (first > 50) throw refuse('first must be at most 50', 'BAD_USER_INPUT');
        const from = after ? Number(Buffer.from(after, 'base64').toString()) : 0;
        const nodes = items.slice(from, from + first);
        const endCursor = Buffer.from(String(from + nodes.length)).toString('base64');
        return { nodes, pageInfo: { hasNextPage: from + nodes.length < items.length, endCursor } };
      },
      secret: (_, __, { request }) => {
        const authorization = request.headers.get('authorization');
        if (authorization === 'Bearer good') return 'the secret';
        throw refuse(`not signed in: ${authorization}`, 'UNAUTHENTICATED', { http: { status: 401 } });
      },
    },
    Item: { broken: () => { throw refuse('the warehouse is down', 'DOWNSTREAM'); } },
    Mutation: {
      createItem: (_, { input }) => {
        items.push({ id: String(items.length + 1), ...input });
        return items.at(-1);
      },
    },
  },
});

// Each operation costs 10; the budget is not restored in a test's time.
const costs = {
  onExecute({ setResultAndStopExecution }) {
    const cost = () => ({
      requestedQueryCost: 10, actualQueryCost: 10,
      throttleStatus: { maximumAvailable: settings.budget, currentlyAvailable: budget, restoreRate: 0.1 },
    });
    if (budget < 10) {
      setResultAndStopExecution({ errors: [refuse('Throttled', 'THROTTLED')], extensions: { cost: cost() } });
      return undefined;
    }
    budget -= 10;
    return { onExecuteDone: ({ result, setResult }) => setResult({ ...result, extensions: { cost: cost() } }) };
  },
};

const yoga = createYoga({ schema: shop, plugins: [costs], graphiql: false, logging: false });
const server = createServer(yoga);
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
console.log(JSON.stringify({ url: `http://127.0.0.1:${server.address().port}/graphql` }));
