//! The blocks of a message's header, besides that of security.

use bytes::Bytes;
use integration_model::Problem;
use integration_model::definition::Method;

use super::super::http::spec::declared_params;
use super::compose::Composer;
use super::envelope::SoapVersion;
use super::model::{Compiler, Element as Described};
use super::spec::HeaderSpec;
use crate::adapter::CallError;
use crate::params::Params;
use crate::xml::{self, AttributeValue, Element, Node, XSI};

pub(super) enum Header {
    Block {
        element: Described,
        param: Option<String>,
        must_understand: bool,
    },
    /// What the author wrote, as it is.
    Written(Vec<Node>),
}

impl Header {
    pub(super) fn compile_all<'a>(specs: &'a [HeaderSpec], method: &Method, compiler: &mut Compiler<'a>) -> Vec<Self> {
        let declared = declared_params(method);
        let mut headers = Vec::with_capacity(specs.len());
        for (index, spec) in specs.iter().enumerate() {
            if let Some(text) = &spec.xml {
                match written(text) {
                    Ok(nodes) => headers.push(Self::Written(nodes)),
                    Err(fault) => compiler.problems.push(Problem::new(format!("/headers/{index}/xml"), fault)),
                }
            }
            if let Some(param) = &spec.param
                && declared.is_some_and(|declared| !declared.contains_key(param))
            {
                let message = format!("the method's paramSchema has no param {param:?}");
                compiler.problems.push(Problem::new(format!("/headers/{index}/param"), message));
            }
            if let Some(element) = &spec.element {
                let element = compiler.element(element, None, &format!("/headers/{index}/element"));
                let HeaderSpec { param, must_understand, .. } = spec;
                headers.push(Self::Block { element, param: param.clone(), must_understand: *must_understand });
            }
        }
        headers
    }

    /// The param that goes into the header instead of into the body.
    pub(super) fn param(&self) -> Option<&String> {
        match self {
            Self::Block { param, .. } => param.as_ref(),
            Self::Written(_) => None,
        }
    }

    pub(super) fn write(
        &self,
        composer: &Composer<'_>,
        params: &Params,
        version: SoapVersion,
        out: &mut Vec<Node>,
    ) -> Result<(), CallError> {
        let (element, param, must_understand) = match self {
            Self::Block { element, param, must_understand } => (element, param, *must_understand),
            Self::Written(nodes) => {
                out.extend(nodes.iter().cloned());
                return Ok(());
            }
        };
        let json = match (param, &element.value) {
            (Some(name), _) => params.json_text(name).map(|text| (text, format!("/params/{name}"))),
            (None, value) => value.as_ref().map(|value| (Bytes::from(value.to_string()), String::new())),
        };
        let Some((json, pointer)) = json else { return Ok(()) };
        for mut node in composer.elements(element, &json, &pointer)? {
            if let Node::Element(block) = &mut node
                && must_understand
            {
                let truth = AttributeValue::Text(version.truth().to_owned());
                block.attributes.push((version.name("mustUnderstand"), truth));
            }
            out.push(node);
        }
        Ok(())
    }
}

/// What stands in a header, from its text.
fn written(text: &str) -> Result<Vec<Node>, String> {
    let mut root = xml::read(&format!("<header>{text}</header>"))?;
    name_types(&mut root)?;
    Ok(root.content)
}

/// Types that `xsi:type` names keep their namespaces, whatever the prefixes will be.
fn name_types(element: &mut Element) -> Result<(), String> {
    for (name, value) in &mut element.attributes {
        if let AttributeValue::Text(text) = value
            && name.is(XSI, "type")
        {
            *value = AttributeValue::Name(element.scope.resolve(text)?);
        }
    }
    element.content.iter_mut().try_for_each(|node| match node {
        Node::Element(child) => name_types(child),
        Node::Text(_) => Ok(()),
    })
}
